//! Numbers with what they count, in words.

use indicatif::HumanCount;

/// A number and what it counts: `1 row`, `2,000 batches`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    let words = match (number, noun.strip_suffix("ch"), noun.strip_suffix("ry")) {
        (1, _, _) => noun.to_owned(),
        (_, Some(_), _) => format!("{noun}es"),
        (_, _, Some(stem)) => format!("{stem}ries"),
        _ => format!("{noun}s"),
    };
    format!("{} {words}", HumanCount(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_numbers() {
        let said = [(1, "row"), (0, "row"), (2000, "batch"), (1, "retry"), (3, "retry")];
        let said = said.map(|(number, noun)| counted(number, noun));
        assert_eq!(said, ["1 row", "0 rows", "2,000 batches", "1 retry", "3 retries"]);
    }
}
