//! Values of the output column, in memory or spilled.

use std::borrow::Cow;
use std::io;

use crate::spill::{SpillFile, Spilled};

/// A value of the output column.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A text, or a JSON object with the fields of the step in their order.
    Text(String),
    /// An embedding.
    Vector(Vec<f32>),
    /// A text that is spilled, in UTF-8.
    SpilledText(Spilled),
    /// A vector that is spilled: 32-bit floats, little-endian.
    SpilledVector(Spilled),
}

impl Content {
    /// Size of the value in bytes, whether it is in memory or spilled.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Content::Text(text) => text.len(),
            Content::Vector(numbers) => size_of_val(numbers.as_slice()),
            Content::SpilledText(spilled) | Content::SpilledVector(spilled) => spilled.len(),
        }
    }

    /// Whether the value is in memory.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        matches!(self, Content::Text(_) | Content::Vector(_))
    }

    /// Moves the value out of memory.
    ///
    /// # Errors
    /// When it cannot be written; it stays in memory then.
    pub fn spill(&mut self, file: &SpillFile) -> io::Result<()> {
        *self = match self {
            Content::Text(text) => Content::SpilledText(file.write(text.as_bytes())?),
            Content::Vector(numbers) => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Content::SpilledVector(file.write(&bytes)?)
            }
            Content::SpilledText(_) | Content::SpilledVector(_) => return Ok(()),
        };
        Ok(())
    }

    /// The value in memory, read back if it is spilled.
    ///
    /// # Errors
    /// When it cannot be read back.
    pub fn load(&self) -> io::Result<Cow<'_, Content>> {
        Ok(match self {
            Content::Text(_) | Content::Vector(_) => Cow::Borrowed(self),
            Content::SpilledText(spilled) => {
                let text = String::from_utf8(spilled.read()?);
                Cow::Owned(Content::Text(
                    text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
                ))
            }
            Content::SpilledVector(spilled) => {
                let bytes = spilled.read()?;
                let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                Cow::Owned(Content::Vector(numbers.collect()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spilled_comes_back_as_it_was() {
        let file = SpillFile::create_in(&std::env::temp_dir()).unwrap();
        for content in [
            Content::Text("ünïcödé".to_owned()),
            Content::Text(String::new()),
            Content::Vector(vec![0.1, -2.5e-30, f32::MAX]),
        ] {
            let mut spilled = content.clone();
            spilled.spill(&file).unwrap();
            assert!(!spilled.is_loaded() && spilled.bytes() == content.bytes());
            assert_eq!(*spilled.load().unwrap(), content);
        }
    }
}
