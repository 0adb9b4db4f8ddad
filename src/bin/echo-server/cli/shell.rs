//! The arguments of `echo-server completions` and `echo-server man`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

/// A shell that completes command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
#[command(after_help = "Where the shells look for them:
  echo-server completions bash >~/.local/share/bash-completion/completions/echo-server
  echo-server completions zsh >DIR/_echo-server, with DIR in $fpath
  echo-server completions fish >~/.config/fish/completions/echo-server.fish")]
pub(super) struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL", value_enum)]
    pub(super) shell: Shell,

    /// Print this help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
#[command(after_help = "To read a page without installing it:
  echo-server man | man -l -")]
pub(super) struct ManArgs {
    /// Directory for the pages of the command and of each subcommand; it is created if it does not
    /// exist [only the command's page, on standard output]
    #[arg(value_name = "DIR")]
    pub(super) directory: Option<PathBuf>,

    /// Print this help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}
