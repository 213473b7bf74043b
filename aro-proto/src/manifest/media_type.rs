//! Media types as RFC 6838 writes them: `type/subtype`, lower case, without parameters.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// What a content's bytes are, in its publisher's words. A hint: nothing here checks it against the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Box<str>);

/// The text is not `type/subtype` of lower-case names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a media type reads type/subtype, in lower case and without parameters")]
pub struct MediaTypeError;

impl MediaType {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;
    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let (kind, subtype) = text.split_once('/').ok_or(MediaTypeError)?;
        if is_name(kind) && is_name(subtype) { Ok(Self(text.into())) } else { Err(MediaTypeError) }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A restricted name of RFC 6838, section 4.2, in lower case; its recommended 64 characters are our bound.
fn is_name(text: &str) -> bool {
    let is_first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_rest = |b: u8| is_first(b) || b"!#$&-^_.+".contains(&b);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().next().is_some_and(is_first) && text.bytes().all(is_rest)
}

const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify manifest.entries]
    #[test]
    fn only_lower_case_types_without_parameters_are_read() {
        for good in ["text/plain", "application/vnd.oasis.opendocument.text", "image/svg+xml", "x/y"] {
            assert_eq!(good.parse::<MediaType>().unwrap().to_string(), good);
        }
        let long = format!("text/{}", "a".repeat(65));
        for bad in ["", "text", "text/", "/plain", "Text/plain", "text/plain; charset=utf-8", "a/b/c", "a/é", &long] {
            assert_eq!(bad.parse::<MediaType>(), Err(MediaTypeError), "{bad}");
        }
    }
}
