//! Makes text of unknown origin fit for a page: clean, and not too long.
//!
//! Escaping is the template's. Here go the characters that HTML forbids, and those that would reorder what stands
//! around them.

use serde::Serialize;

use super::number;

/// Text on the page: what is seen at once, and what is seen on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PageText {
    /// The beginning.
    pub(super) head: String,
    /// What follows the beginning; empty when nothing does.
    pub(super) rest: String,
    /// How much `rest` holds, in words; empty when nothing.
    pub(super) more: String,
    /// How much is not on the page at all, in words; empty when nothing.
    pub(super) left_out: String,
}

const HEAD_CHARACTERS: usize = 280;
const HEAD_LINES: usize = 8;
/// A rest that is shorter stays with the beginning.
const LEAST_REST: usize = 60;

impl PageText {
    /// Shows a text within so many bytes of the page.
    pub(super) fn new(text: &str, bytes: usize) -> PageText {
        let mut room = bytes;
        let fits = |(_, char): &(usize, char)| {
            let size = escaped_bytes(clean(*char));
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        };
        let kept = text.char_indices().take_while(fits).map(|(at, char)| at + char.len_utf8()).last();
        let (kept, left_out) = text.split_at_checked(kept.unwrap_or(0)).unwrap_or((text, ""));
        let (head, rest) = kept.split_at_checked(head_bytes(kept)).unwrap_or((kept, ""));
        PageText {
            head: head.chars().map(clean).collect(),
            rest: rest.chars().map(clean).collect(),
            more: characters(rest),
            left_out: characters(left_out),
        }
    }
}

/// `1,204 characters`; nothing for none.
fn characters(text: &str) -> String {
    match u64::try_from(text.chars().count()).unwrap_or(u64::MAX) {
        0 => String::new(),
        1 => "1 character".to_owned(),
        number => format!("{} characters", number::count(number)),
    }
}

/// Where the beginning of a text ends: behind a word or a line if there is one near.
fn head_bytes(text: &str) -> usize {
    let by_lines = text.match_indices('\n').nth(HEAD_LINES - 1).map(|(at, _)| at);
    let by_characters = text.char_indices().nth(HEAD_CHARACTERS).map(|(at, _)| at);
    let Some(end) = by_lines.into_iter().chain(by_characters).min() else {
        return text.len();
    };
    let (head, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    if rest.chars().count() < LEAST_REST && rest.lines().count() <= 2 {
        return text.len();
    }
    if by_lines == Some(end) {
        return end;
    }
    let near = end.saturating_sub(HEAD_CHARACTERS / 5);
    head.rfind(char::is_whitespace).filter(|space| *space > near).unwrap_or(end)
}

/// A text in one line of so many characters at most.
pub(super) fn in_line(text: &str, characters: usize) -> String {
    let flat = |char| {
        if matches!(char, '\n' | '\r' | '\t') { ' ' } else { clean(char) }
    };
    let line: String = text.chars().take(characters + 1).map(flat).collect();
    if line.chars().count() <= characters {
        return line;
    }
    line.chars().take(characters - 1).chain(['…']).collect()
}

/// A character that HTML allows and that leaves the order of others alone.
///
/// Controls become their pictures. Marks that switch the direction of text, and numbers that are no characters,
/// become the sign for what cannot be shown.
pub(super) fn clean(char: char) -> char {
    match char {
        '\t' | '\n' => char,
        // Half of a Windows line end; alone, HTML would make a line end of it.
        '\r' => ' ',
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(char)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        '\u{fdd0}'..='\u{fdef}' => char::REPLACEMENT_CHARACTER,
        _ if u32::from(char) & 0xfffe == 0xfffe => char::REPLACEMENT_CHARACTER,
        _ => char,
    }
}

/// Bytes that the template writes for a character.
fn escaped_bytes(char: char) -> usize {
    match char {
        '<' | '>' => "&lt;".len(),
        '&' => "&amp;".len(),
        '"' | '\'' | '/' => "&#x2f;".len(),
        _ => char.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_is_shown_whole() {
        let shown = PageText::new("one\ttwo\nthree", 4_000);
        assert_eq!(shown, PageText { head: "one\ttwo\nthree".to_owned(), ..PageText::default() });
    }

    #[test]
    fn long_text_breaks_at_a_word_and_says_what_is_left_out() {
        let shown = PageText::new(&"word ".repeat(1_000), 1_000);
        assert!(shown.head.ends_with("word") && shown.head.len() <= HEAD_CHARACTERS, "{:?}", shown.head);
        assert_eq!(shown.head.len() + shown.rest.len(), 1_000);
        assert_eq!(shown.left_out, "4,000 characters");
        assert_eq!(PageText::new("🦀🦀", 5).left_out, "1 character");
    }

    #[test]
    fn text_of_many_lines_is_cut_by_its_lines() {
        let shown = PageText::new(&"x\n".repeat(100), 4_000);
        assert_eq!((shown.head.lines().count(), shown.more.as_str()), (HEAD_LINES, "185 characters"));
    }

    #[test]
    fn characters_that_act_are_shown_instead() {
        let cleaned: String = "a\0b\x1b[1m\u{202e}c\u{ffff}\u{7f}\r\n".chars().map(clean).collect();
        assert_eq!(cleaned, "a␀b␛[1m\u{fffd}c\u{fffd}␡ \n");
        assert_eq!(in_line("a\nb\u{2066}cdefgh", 6), "a b\u{fffd}c…");
    }
}
