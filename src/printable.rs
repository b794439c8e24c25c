//! Text from elsewhere, such as a tracker's answer or the reason of a switch, made fit to be shown in a line.

/// Whether a character controls a terminal, breaks the line, is invisible, or changes the direction of text.
pub fn misleads(c: char) -> bool {
    let turns = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    c.is_control() || turns
}

/// The characters of a text, with a space in place of each that [misleads].
pub fn in_a_line(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|c| if misleads(c) { ' ' } else { c })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_turn_or_break_a_line_become_spaces_and_letters_stay() {
        let shown: String = in_a_line("a\u{1b}b\nc\u{202e}d\u{2028}e\u{61c}f\u{200b}g\u{feff}ü…→日").collect();
        assert_eq!(shown, "a b c d e f g ü…→日");
    }
}
