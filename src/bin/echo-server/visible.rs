//! Text of others, such as a path, a name in a certificate or an HTTP field, that a terminal is shown.

/// Whether a terminal would not print `c`, or would obey it: control and format characters, line and
/// paragraph separators, and what is unassigned.
pub fn is_hidden(c: char) -> bool {
    !matches!(c, '"' | '\'' | '\\') && c.escape_debug().len() > 1
}

/// `text` on one line, with Rust's escapes in place of what is hidden.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    shown
}

/// JSON with `\u` escapes in place of what is hidden, which stands inside strings only.
pub fn visible_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        match is_hidden(c) {
            true => {
                for unit in c.encode_utf16(&mut units) {
                    shown.push_str(&format!("\\u{unit:04x}"));
                }
            }
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(visible("it's \"ä\" \\ 漢"), "it's \"ä\" \\ 漢");
        assert_eq!(visible("\u{1b}[31m\n\u{9b}\u{202e}"), "\\u{1b}[31m\\n\\u{9b}\\u{202e}");
        assert_eq!(visible_json("\"\u{9b}\u{2028}\u{e0001}\""), r#""\u009b\u2028\udb40\udc01""#);
        let text = "\u{7f}\u{9b}\u{200b}\u{feff}";
        let json = visible_json(&serde_json::Value::from(text).to_string());
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
