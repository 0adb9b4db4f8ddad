//! What a mistyped name was meant to be.

/// The candidate that `text` was probably meant to be.
pub(super) fn nearest<'a>(
    text: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(text, candidate);
    // A third of the letters may be wrong, as long as there are others.
    let most = (text.trim_start_matches('-').chars().count() / 3).clamp(1, 3);
    let near = candidates.map(|candidate| (distance(candidate), candidate));
    near.filter(|(distance, _)| *distance <= most).min().map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_typing_error_away() {
        let names = ["--tcp", "--tls", "--udp", "--ws", "--wss", "--log-format", "--threads"];
        for (typed, meant) in [
            ("--tpc", Some("--tcp")),
            ("--wsss", Some("--wss")),
            ("--logformat", Some("--log-format")),
            ("--thread", Some("--threads")),
            ("--port", None),
            ("--x", None),
        ] {
            assert_eq!(nearest(typed, names.into_iter()), meant, "{typed}");
        }
    }
}
