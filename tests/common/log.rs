//! The log of the real binary, as JSON.

use serde_json::Value;

use super::binary::Running;

/// What a server has logged, line by line.
pub struct Log(Vec<Value>);

impl Log {
    /// Stops `server`, which has to have been started with `--log-format json`, and takes its log.
    pub fn of(server: Running) -> Log {
        let (status, log) = server.terminate();
        assert!(status.success(), "{log}");
        Log::parse(&log)
    }

    pub fn parse(log: &str) -> Log {
        let line =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Log(log.lines().map(line).collect())
    }

    /// The lines whose message is `message`.
    pub fn all(&self, message: &str) -> Vec<&Value> {
        self.0.iter().filter(|line| line["message"] == message).collect()
    }

    /// The lines whose message begins with `words`.
    pub fn beginning(&self, words: &str) -> Vec<&Value> {
        let begins = |line: &&Value| line["message"].as_str().unwrap().starts_with(words);
        self.0.iter().filter(begins).collect()
    }

    /// The line whose message is `message`, of which there has to be exactly one.
    #[track_caller]
    pub fn one(&self, message: &str) -> &Value {
        match self.all(message)[..] {
            [line] => line,
            _ => panic!("not one line says '{message}': {self}"),
        }
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
