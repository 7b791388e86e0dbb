//! Events: the length of their notes.

/// The longest note of an event in bytes. The API server rejects a longer one.
const MAX_NOTE_BYTES: usize = 1024;

/// `text` as the note of an event, cut with an ellipsis where it is too long.
pub fn note(text: &str) -> String {
    if text.len() <= MAX_NOTE_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_NOTE_BYTES - '…'.len_utf8());
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_as_long_as_the_api_server_accepts() {
        assert_eq!(note("short"), "short");
        assert_eq!(note(&"x".repeat(MAX_NOTE_BYTES)), "x".repeat(MAX_NOTE_BYTES));
        for long in
            ["x".repeat(MAX_NOTE_BYTES + 1), "ä".repeat(MAX_NOTE_BYTES), format!("x{}", "…".repeat(MAX_NOTE_BYTES))]
        {
            let cut = note(&long);
            assert!(
                cut.len() <= MAX_NOTE_BYTES && cut.len() > MAX_NOTE_BYTES - 4 && cut.ends_with('…'),
                "{}",
                cut.len()
            );
        }
    }
}
