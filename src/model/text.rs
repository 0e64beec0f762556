//! Text from outside that people read on a terminal.

/// Whether `c` stands for itself where text is shown: no control character, no end of a line or paragraph, nothing that is
/// not seen, and nothing that turns round the text after it.
///
/// The joiners U+200C and U+200D pass: words and emoji are written with them. Source: the properties `Cc`, `Zl`, `Zp` and
/// `Bidi_Control` of the Unicode Character Database; U+200B and U+FEFF are of no width.
pub fn is_printable(c: char) -> bool {
    let hidden = matches!(c, '\u{200b}' | '\u{feff}');
    let line_end = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || hidden || line_end || turns)
}

/// `text` on one line: what is not printable comes escaped, so that no name can forge or turn round a line of output.
pub fn escaped(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c) { clean.push(c) } else { clean.extend(c.escape_default()) }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_line_ends_and_what_turns_text_round_are_not_printable() {
        let refused = "\0\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\
                       \u{2069}\u{feff}";
        for c in refused.chars() {
            assert!(!is_printable(c), "{c:?}");
        }
        // The neighbours, blanks, joiners, other scripts and combining marks are text.
        for c in " ~\u{a0}é\u{301}ש\u{200a}\u{200c}\u{200d}\u{2010}\u{2027}\u{202f}\u{2065}\u{206a}👩".chars() {
            assert!(is_printable(c), "{c:?}");
        }
    }

    #[test]
    fn what_is_not_printable_comes_escaped() {
        assert_eq!(escaped("a\u{202e}b\nc"), "a\\u{202e}b\\nc");
        assert_eq!(escaped("né\u{200d}"), "né\u{200d}");
    }
}
