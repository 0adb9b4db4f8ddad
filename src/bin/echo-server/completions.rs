//! `echo-server completions`: prints what a shell needs to complete its command lines.

use std::process::ExitCode;

use crate::cli::{self, Shell};

pub fn run(shell: Shell) -> ExitCode {
    let mut command = cli::definition();
    let mut script = Vec::new();
    let name = "echo-server";
    match shell {
        Shell::Bash => {
            clap_complete::generate(clap_complete::Shell::Bash, &mut command, name, &mut script)
        }
        Shell::Zsh => {
            clap_complete::generate(clap_complete::Shell::Zsh, &mut command, name, &mut script)
        }
        Shell::Fish => {
            clap_complete::generate(clap_complete::Shell::Fish, &mut command, name, &mut script)
        }
    }
    crate::print(&script)
}
