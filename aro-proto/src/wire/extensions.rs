//! Optional fields after a message's own: tagged, rising, skipped when unknown.

use super::frame::DecodeError;
use crate::limits::MAX_EXTENSIONS;

/// One optional field as it lies in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Which field.
    pub tag: u64,
    /// Its bytes.
    pub value: &'a [u8],
}

/// Reads all optional fields to the end of the body.
// r[impl framing.extensions]
pub fn read_extensions(mut bytes: &[u8]) -> Result<Vec<Extension<'_>>, DecodeError> {
    let mut fields: Vec<Extension<'_>> = Vec::new();
    while !bytes.is_empty() {
        if fields.len() == MAX_EXTENSIONS {
            return Err(DecodeError::TooManyExtensions);
        }
        let (tag, rest) = read_varint(bytes)?;
        let (length, rest) = read_varint(rest)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
        let (value, rest) = rest.split_at(length.ok_or(DecodeError::Truncated)?);
        if fields.last().is_some_and(|last| last.tag >= tag) {
            return Err(DecodeError::ExtensionOrder);
        }
        fields.push(Extension { tag, value });
        bytes = rest;
    }
    Ok(fields)
}

/// Writes one optional field behind a message's own fields, which the caller keeps in the order of their tags.
pub(crate) fn write_extension(body: &mut Vec<u8>, field: Extension<'_>) {
    write_varint(body, field.tag);
    write_varint(body, field.value.len() as u64);
    body.extend_from_slice(field.value);
}

fn write_varint(body: &mut Vec<u8>, value: u64) {
    let mut room = [0; 10];
    let written = postcard::to_slice(&value, &mut room).expect("a u64 varint takes at most 10 bytes");
    body.extend_from_slice(written);
}

fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify framing.extensions]
    #[test]
    fn rising_fields_are_read_and_anything_else_is_refused() {
        let fields = [Extension { tag: 1, value: b"a" }, Extension { tag: 300, value: b"" }];
        let mut body = Vec::new();
        write_extensions(&mut body, &fields);
        assert_eq!(read_extensions(&body).unwrap(), fields);
        for cut in 1..body.len() {
            assert!(read_extensions(&body[..cut]).is_err() || read_extensions(&body[..cut]).unwrap().len() < 2);
        }

        let mut twice = Vec::new();
        write_extensions(&mut twice, &[fields[0], fields[0]]);
        assert_eq!(read_extensions(&twice), Err(DecodeError::ExtensionOrder));

        let many: Vec<_> = (0..=MAX_EXTENSIONS as u64).map(|tag| Extension { tag, value: b"" }).collect();
        let mut body = Vec::new();
        write_extensions(&mut body, &many);
        assert_eq!(read_extensions(&body), Err(DecodeError::TooManyExtensions));

        assert_eq!(read_extensions(&[1, 255, 255, 255, 255, 15]), Err(DecodeError::Truncated));
    }

    fn write_extensions(body: &mut Vec<u8>, fields: &[Extension<'_>]) {
        for field in fields {
            write_extension(body, *field);
        }
    }
}
