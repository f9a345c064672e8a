//! The id of a request in a file: which row and which question it is, and none of our counters, so that an answer can be
//! joined to its row without any file of ours.

use std::fmt;
use std::str::FromStr;

use crate::ident::Fingerprint;

/// Digits of base 32 without letters that look like a digit (Crockford, "Base 32").
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BITS: u32 = 5;

/// The id of a request in a file: at most 64 characters of `a` to `z`, digits and `-`, which every provider takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId {
    /// The first 64 bits of the hash of the name of the row's file.
    pub file: u64,
    /// The physical row in the file.
    pub row: u64,
    /// Index of the step in the list of the submission.
    pub step: u16,
    /// Fingerprint of the request.
    pub fingerprint: Fingerprint,
}

impl LineId {
    /// Returns the number that stands for a file of the source.
    #[must_use]
    pub fn file_number(name: &str) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = Fingerprint::of([name.as_bytes()]).to_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for LineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        let mut len = 0;
        let mut write = |number: u128, digits: usize| {
            if len > 0 {
                text[len] = b'-';
                len += 1;
            }
            for at in 0..digits {
                let shift = BITS * u32::try_from(digits - 1 - at).expect("few digits");
                text[len] = DIGITS[usize::try_from(number >> shift & 31).expect("five bits")];
                len += 1;
            }
        };
        write(self.file.into(), 13);
        write(self.row.into(), digits_of(self.row));
        write(self.step.into(), digits_of(self.step.into()));
        write(u128::from_be_bytes(self.fingerprint.to_bytes()), 26);
        f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
    }
}

/// The text is not the id of a request of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a request of this program")]
pub struct InvalidLineId;

impl FromStr for LineId {
    type Err = InvalidLineId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-').map(number);
        let mut next = || parts.next().flatten().ok_or(InvalidLineId);
        let (file, row, step, fingerprint) = (next()?, next()?, next()?, next()?);
        let id = LineId {
            file: file.try_into().map_err(|_| InvalidLineId)?,
            row: row.try_into().map_err(|_| InvalidLineId)?,
            step: step.try_into().map_err(|_| InvalidLineId)?,
            fingerprint: Fingerprint::from_bytes(fingerprint.to_be_bytes()),
        };
        // One id has one text.
        if id.to_string() == text { Ok(id) } else { Err(InvalidLineId) }
    }
}

/// Number of digits of base 32 that a number has, at least one.
fn digits_of(number: u64) -> usize {
    ((64 - number.leading_zeros()).div_ceil(BITS) as usize).max(1)
}

fn number(text: &str) -> Option<u128> {
    let mut number: u128 = 0;
    for byte in text.bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        number = number.checked_mul(32)? | u128::try_from(digit).ok()?;
    }
    (!text.is_empty()).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text(file: u64, row: u64, step in 0_u16..1_024, bytes: [u8; 16]) {
            let id = LineId { file, row, step, fingerprint: Fingerprint::from_bytes(bytes) };
            let text = id.to_string();
            prop_assert!(text.len() <= 64, "{text}");
            prop_assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert_eq!(text.parse::<LineId>(), Ok(id));
        }

        #[test]
        fn other_ids_are_not_taken(text in "[0-9a-z-]{0,60}") {
            prop_assert!(text.parse::<LineId>().is_err());
        }
    }

    #[test]
    fn an_id_says_the_row_and_the_question() {
        let fingerprint = Fingerprint::of([b"question".as_slice()]);
        let id = LineId { file: LineId::file_number("part-0.parquet"), row: 33, step: 0, fingerprint };
        let text = id.to_string();
        let parts: Vec<&str> = text.split('-').collect();
        assert_eq!((parts[0].len(), parts[1], parts[2], parts[3].len()), (13, "11", "0", 26));
        assert!(text.to_uppercase().parse::<LineId>().is_err());
        assert!(
            format!("{text}-0").parse::<LineId>().is_err() && format!("0{text}").parse::<LineId>().is_err()
        );
    }
}
