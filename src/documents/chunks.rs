//! Texts cut into chunks of a number of tokens.

use super::settings::TEXT_BYTES;
use super::unread::{UnreadDocument, UnreadReason};
use crate::tokens::tokenizer::Encoding;

/// Fewest tokens of a chunk: a character has up to four bytes, and each may be a token.
pub(super) const MIN_TOKENS: i64 = 4;

/// Size of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkSize {
    tokens: usize,
    overlap: usize,
}

impl ChunkSize {
    /// # Errors
    /// With what is wrong, in words.
    pub(super) fn new(tokens: i64, overlap: i64) -> Result<Self, String> {
        if tokens < MIN_TOKENS {
            return Err(format!(
                "chunk: {tokens} tokens are too few; a chunk has at least {MIN_TOKENS}, which a single character may take"
            ));
        }
        if !(0..tokens).contains(&overlap) {
            return Err(format!(
                "chunk: chunks of {tokens} tokens cannot overlap by {overlap}; the overlap is from 0 to {}",
                tokens - 1
            ));
        }
        let number = |count| usize::try_from(count).map_err(|_| format!("chunk: {count} is out of range"));
        Ok(ChunkSize { tokens: number(tokens)?, overlap: number(overlap)? })
    }
}

/// Cuts a text into chunks that cover it. Each has at most `size.tokens` tokens, and as many as fit. Of the tokens of the
/// text, neighbours have `size.overlap` in common, or fewer where more would cut a character or leave a chunk without
/// anything new.
pub(super) fn chunks(text: &str, size: ChunkSize, encoding: Encoding) -> Result<Vec<&str>, UnreadDocument> {
    let unread = |message: String| UnreadDocument::new(UnreadReason::Damaged).with_detail(&message);
    let cut = TextSplitter { text, ends: encoding.token_ends(text).map_err(unread)?, size, encoding };
    let step = size.tokens - size.overlap;
    let number = 1 + cut.ends.len().saturating_sub(size.tokens).div_ceil(step);
    // A token is in about so many chunks.
    let times = number.min(size.tokens.div_ceil(step));
    if text.len().saturating_mul(times) > TEXT_BYTES {
        return Err(UnreadDocument::new(UnreadReason::TooMuchText).with_detail("all chunks together"));
    }
    let mut chunks = Vec::new();
    let (mut start, mut end) = (0, 0);
    while end < text.len() {
        let next = cut.end_of(start);
        if next <= end {
            // Everything in it is in the chunk before.
            start = cut.token_end_after(start).min(end);
            continue;
        }
        end = next;
        let chunk = text.get(start..end).unwrap_or_default();
        chunks.push(chunk);
        start = cut.overlap_before(end).max(cut.token_end_after(start).min(end));
    }
    Ok(chunks)
}

struct TextSplitter<'a> {
    text: &'a str,
    /// Where the tokens of the text end.
    ends: Vec<usize>,
    size: ChunkSize,
    encoding: Encoding,
}

impl TextSplitter<'_> {
    /// Returns the end of the longest chunk that starts there.
    fn end_of(&self, start: usize) -> usize {
        let before = self.ends.partition_point(|end| *end <= start);
        let mut tokens = self.size.tokens;
        while tokens > 0 {
            let end = self.ends.get(before + tokens - 1).copied().unwrap_or(self.text.len());
            let end = self.text.floor_char_boundary(end);
            let Some(chunk) = self.text.get(start..end).filter(|chunk| !chunk.is_empty()) else { break };
            // A part of a text may have other tokens than the text has there.
            let over = self.encoding.count_whole(chunk).saturating_sub(self.size.tokens);
            if over == 0 {
                return end;
            }
            tokens = tokens.min(self.ends.len() - before).saturating_sub(over);
        }
        self.text.ceil_char_boundary(start + 1)
    }

    /// Returns the first position after this one at which a token and a character end.
    fn token_end_after(&self, position: usize) -> usize {
        let next = self.ends.partition_point(|end| *end <= position);
        self.text.ceil_char_boundary(self.ends.get(next).copied().unwrap_or(self.text.len()))
    }

    /// Returns the position from which the overlap reaches to the end of a chunk.
    fn overlap_before(&self, end: usize) -> usize {
        // The chunk may end within this token, which counts all the same.
        let last = self.ends.partition_point(|token_end| *token_end < end);
        match last.checked_sub(self.size.overlap) {
            Some(outside) => self.text.ceil_char_boundary(self.ends[outside]).min(end),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(text: &str, tokens: i64, overlap: i64) -> Vec<&str> {
        chunks(text, ChunkSize::new(tokens, overlap).unwrap(), Encoding::usual()).unwrap()
    }

    #[test]
    fn chunks_are_as_long_as_they_may_be_and_overlap() {
        let text = "one two three four five six seven eight nine ten";
        assert_eq!(cut(text, 4, 0), ["one two three four", " five six seven eight", " nine ten"]);
        assert_eq!(
            cut(text, 4, 2),
            ["one two three four", " three four five six", " five six seven eight", " seven eight nine ten"]
        );
        assert_eq!(cut(text, 100, 50), [text]);
        assert_eq!(cut("", 4, 0), Vec::<&str>::new());
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for (tokens, overlap, expected) in [
            (0, 0, "0 tokens are too few; a chunk has at least 4"),
            (-7, 0, "-7 tokens are too few"),
            (100, 100, "chunks of 100 tokens cannot overlap by 100; the overlap is from 0 to 99"),
            (100, -1, "cannot overlap by -1"),
        ] {
            let error = ChunkSize::new(tokens, overlap).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn chunks_that_would_take_too_much_memory_are_not_made() {
        let text = " word".repeat(100_001);
        let size = ChunkSize::new(50_000, 49_999).unwrap();
        let unread = chunks(&text, size, Encoding::usual()).unwrap_err();
        assert_eq!(unread.reason, UnreadReason::TooMuchText);
        let size = ChunkSize::new(100_000, 99_999).unwrap();
        assert_eq!(
            chunks(&text, size, Encoding::usual()).unwrap().len(),
            2,
            "many tokens in common, and few chunks"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
        #[test]
        fn chunks_cover_a_text_within_bounds(
            text in prop_oneof![
                "\\PC{0,300}",
                "[a-zA-Z0-9' \r\n\t]{0,300}",
                "[ก-ฮ中文字😀👩‍👧é ]{0,120}",
                "(The crab said 123456 times|Übergrößenträger's|\u{1f980}\u{1f980}|   |\n\n){0,60}",
            ],
            tokens in 4_i64..40,
            overlap in 0_i64..40,
        ) {
            let overlap = overlap % tokens;
            let encoding = Encoding::usual();
            let made = cut(&text, tokens, overlap);
            let position = |chunk: &str| chunk.as_ptr() as usize - text.as_ptr() as usize;
            let mut end = 0;
            for (index, chunk) in made.iter().enumerate() {
                let start = position(chunk);
                prop_assert!(start <= end && start + chunk.len() > end, "a hole, or nothing new");
                let ends = encoding.token_ends(&text).unwrap();
                let inside = ends.iter().filter(|token_end| (start + 1..=end).contains(token_end)).count();
                prop_assert!(inside <= usize::try_from(overlap).unwrap() || index == 0);
                prop_assert!(encoding.count_whole(chunk) <= usize::try_from(tokens).unwrap());
                end = start + chunk.len();
            }
            prop_assert_eq!(end, text.len());
            if overlap == 0 {
                prop_assert_eq!(made.concat(), text);
            }
        }

        #[test]
        fn neighbours_have_the_whole_overlap_in_common_where_words_are_tokens(
            words in proptest::collection::vec(prop_oneof![Just(" one"), Just(" two"), Just(" three")], 1..200),
            tokens in 4_usize..40,
            overlap in 0_usize..40,
        ) {
            let overlap = overlap % tokens;
            let text = words.concat();
            let made = cut(&text, tokens as i64, overlap as i64);
            for pair in made.windows(2) {
                let first = pair[0].split(' ').skip(1).collect::<Vec<_>>();
                let second = pair[1].split(' ').skip(1).collect::<Vec<_>>();
                prop_assert_eq!(first.len(), tokens);
                prop_assert_eq!(&first[tokens - overlap..], &second[..overlap]);
            }
        }
    }
}
