//! `echo-server man`: the man pages, made of the command line's definition.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;

use crate::REFUSED;
use crate::cli;

/// Writes a page for the command and each subcommand to `directory`, over those of another version,
/// or prints the command's.
pub fn run(directory: Option<&Path>) -> ExitCode {
    let mut command = cli::definition();
    // Names the subcommands in full: echo-server-probe.
    command.build();
    let Some(directory) = directory else {
        return match page(&command) {
            Ok((_, text)) => crate::print(&text),
            Err(error) => crate::fail(REFUSED, &format!("man: {error}")),
        };
    };
    match write(&command, directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => crate::fail(REFUSED, &format!("man {}: {error}", directory.display())),
    }
}

fn write(command: &Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for command in std::iter::once(command).chain(command.get_subcommands()) {
        let (name, text) = page(command)?;
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// The file name and the text of a command's page.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let source = concat!("echo-server ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("User Commands");
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((man.get_filename(), text))
}
