//! `echo-server man`: the man pages, made of the command line's definition.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::REFUSED;
use crate::cli;

/// The day on which the pages were last changed. It is no day of a build, so that a build can be
/// repeated.
const DATE: &str = "2026-11-27";

/// Writes a page for the command and each subcommand to `directory`, over those of another version,
/// or prints the command's.
pub fn run(directory: Option<&Path>) -> ExitCode {
    // What -h leaves out would have no help in a page.
    let mut command = cli::definition().mut_args(|arg| arg.hide_short_help(false));
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

/// The file name and the text of a command's page. clap_mangen writes most of it; its synopsis would
/// list every flag, and it would reflow the examples.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(DATE)
        .source(concat!("echo-server ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    let usage = command.clone().render_usage().to_string();
    let usage =
        usage.trim_start_matches("Usage:").lines().map(|line| format!("  {}\n", line.trim()));
    section("SYNOPSIS", &usage.collect::<String>()).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let notes = command.get_after_long_help().or(command.get_after_help());
    let notes = notes.map(ToString::to_string).unwrap_or_default();
    let (notes, examples) = match notes.split_once("Examples:\n") {
        Some((notes, examples)) => (notes, examples),
        None => (&notes[..], ""),
    };
    for (heading, content) in [("NOTES", notes), ("EXAMPLES", examples)] {
        if !content.trim().is_empty() {
            section(heading, content).to_writer(&mut text)?;
        }
    }
    // clap_mangen breaks a line before and after an empty one, which linters find.
    let text = String::from_utf8_lossy(&text);
    let text = text.replace("\n.br\n\n.br\n", "\n.sp\n");
    Ok((format!("{name}.1"), text.into_bytes()))
}

/// A section: lines that are indented stay as they are, others are paragraphs.
fn section(heading: &str, content: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [heading]);
    let mut is_verbatim = false;
    let lines = content.lines().filter(|line| !line.is_empty());
    for (number, line) in lines.enumerate() {
        let is_indented = line.starts_with("  ");
        if is_indented != is_verbatim {
            roff.control(if is_indented { "nf" } else { "fi" }, []);
            is_verbatim = is_indented;
        } else if !is_indented && number > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(line.trim())]);
    }
    if is_verbatim {
        roff.control("fi", []);
    }
    roff
}
