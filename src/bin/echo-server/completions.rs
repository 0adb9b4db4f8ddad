//! `echo-server completions`: prints what a shell needs to complete its command lines.

use std::process::ExitCode;

use clap_complete::Shell as Generator;

use crate::cli::{self, Shell};

pub fn run(shell: Shell) -> ExitCode {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut cli::definition(), "echo-server", &mut script);
    crate::print(&script)
}
