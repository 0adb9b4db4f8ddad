//! The compose file and the environment file of the mesh: valid, and all of their flags are known.
//! `tests/kubernetes.rs` has the manifests.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::prometheus::{file, text};
use common::tools;

/// The lines of a file that are no comments.
fn lines(path: &str) -> Vec<String> {
    let text = text(path);
    text.lines().filter(|line| !line.trim().starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn every_flag_and_variable_is_known() {
    let known = text("docs/flags.md");
    let settings = lines("deploy/systemd/echo-server-mesh.env");
    let variables: BTreeSet<_> =
        settings.iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(variables.contains("ECHO_MESH") && variables.contains("ECHO_MESH_CA"));
    for variable in variables {
        assert!(known.contains(&format!("`{variable}`")), "{variable}");
    }
    let compose = lines("deploy/compose/mesh.yaml").join("\n");
    let flags = compose.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    let flags: BTreeSet<_> = flags.filter(|word| word.starts_with("--")).collect();
    assert!(flags.contains("--mesh") && flags.contains("--mesh-ca"));
    for flag in flags {
        let mut rows = known.lines().filter(|line| line.starts_with("| `"));
        let is_in = |row: &str| row.split(['`', ' ', ',', '[']).any(|word| word == flag);
        assert!(rows.any(is_in), "{flag}");
    }
}

#[test]
fn the_compose_file_has_three_hosts_of_one_name() {
    // The plugin, or the program that came before it.
    let compose: &[&str] = match tools::runs(&["docker", "compose", "version"], "version") {
        true => &["docker", "compose"],
        false => &["docker-compose"],
    };
    if !tools::have(&[compose, &["version"]].concat(), "version") {
        return;
    }
    let mut config = Command::new(compose[0]);
    config.args(&compose[1..]).arg("--file").arg(file("deploy/compose/mesh.yaml")).arg("config");
    let output = tools::run(&mut config, b"");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("--mesh=echo-mesh").count(), 3, "{said}");
    assert_eq!(said.matches("- echo-mesh\n").count(), 3, "{said}");
}
