//! The form of log lines: fields that a logfmt parser takes, and the levels of systemd's journal.

use std::borrow::Cow;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::visible::{is_hidden, visible_json};
use crate::without_error_numbers;

/// Writes the message as it is, and each field as `key=value`. A value that a logfmt parser would not
/// take is quoted, with JSON's escapes. The message has no `=` and no quotation mark, so that its
/// words are keys without a value to such a parser.
#[derive(Debug)]
pub struct Logfmt;

impl<'writer> FormatFields<'writer> for Logfmt {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn write(&mut self, field: &Field, text: &str) {
        let space = if std::mem::take(&mut self.is_empty) { "" } else { " " };
        let written = match field.name() {
            "message" => write!(self.writer, "{space}{}", message(text)),
            "error" => {
                let text = without_error_numbers(text);
                write!(self.writer, "{space}error={}", quoted(&text))
            }
            name => write!(self.writer, "{space}{name}={}", quoted(text)),
        };
        self.result = self.result.and(written);
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value);
    }

    /// Numbers, and what a line shows with Display.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format!("{value:?}"));
    }
}

fn message(text: &str) -> String {
    let one_line = text.chars().map(|c| match c {
        '"' => '\'',
        '=' => ':',
        c if is_hidden(c) => ' ',
        c => c,
    });
    one_line.collect()
}

fn quoted(text: &str) -> Cow<'_, str> {
    let is_bare = |c: char| !c.is_whitespace() && !is_hidden(c) && !"\"=\\".contains(c);
    match text.is_empty() || !text.chars().all(is_bare) {
        true => visible_json(&serde_json::Value::from(text).to_string()).into(),
        false => text.into(),
    }
}

/// Puts the level of systemd's journal before each line (sd-daemon(3)), which the journal takes off.
#[derive(Debug)]
pub struct Journal<F>(pub F);

impl Journal<()> {
    /// Whether stderr goes to the journal: `JOURNAL_STREAM` then has the device and inode of it
    /// (systemd.exec(5)).
    #[cfg(unix)]
    pub fn is_stderr() -> bool {
        use std::os::unix::fs::MetadataExt;
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let stderr = std::fs::metadata("/dev/stderr");
        stderr.is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
    }

    #[cfg(not(unix))]
    pub fn is_stderr() -> bool {
        false
    }
}

/// Escapes in lines of JSON what a terminal would obey.
#[derive(Debug)]
pub struct VisibleJson<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for VisibleJson<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", visible_json(line.trim_end()))
    }
}

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        })?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_quoted_if_it_has_to_be() {
        for bare in ["127.0.0.1:80", "tcp", "[::1]:80", "it's", "/path?a", "Ä"] {
            assert_eq!(quoted(bare), bare);
        }
        assert_eq!(quoted(""), r#""""#);
        assert_eq!(quoted("end of stream"), r#""end of stream""#);
        for text in
            ["a=b", "\u{1b}[31m", "a\"b", "tab\tand\nline", "back\\slash", "\0", "\u{7f}\u{9b}"]
        {
            let line = quoted(text);
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
            assert!(!line.contains(char::is_control), "{line}");
        }
    }

    #[test]
    fn a_message_is_one_line_of_words() {
        assert_eq!(message("a=\"b\"\n\u{1b}c"), "a:'b'  c");
    }
}
