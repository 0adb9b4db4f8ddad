//! Transcripts of the command, in `tests/cmd/`: each command is run, and what it prints is compared.
//! After a change of words, `TRYCMD=overwrite cargo test --test transcripts` writes the new ones.

#[test]
fn the_command_prints_what_the_transcripts_show() {
    let cases = trycmd::TestCases::new();
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        assert!(!name.starts_with("ECHO_"), "{name} is set");
    }
    cases.timeout(std::time::Duration::from_secs(20)).case("tests/cmd/*.md");
}
