//! A profile as a file: gzip around protobuf.
//!
//! **In**: bytes of unknown origin. **Limits**: `max_bytes` unpacked; a file that would unpack to more is refused
//! while it is read, before the memory is spent.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use prost::Message;

use crate::Profile;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why bytes are not a profile.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Broken gzip.
    #[error("cannot unpack: {0}")]
    Gzip(#[from] io::Error),
    /// More than the limit once unpacked.
    #[error("unpacks to more than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: usize,
    },
    /// Broken protobuf.
    #[error("is not a profile: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

/// Encodes a profile and packs it with gzip, as pprof expects files.
#[must_use]
pub fn encode(profile: &Profile) -> Vec<u8> {
    let plain = profile.encode_to_vec();
    let mut packed = GzEncoder::new(Vec::with_capacity(plain.len() / 3), Compression::fast());
    // Writing to memory cannot fail; the plain bytes are a valid file too, should it ever.
    match packed.write_all(&plain).and_then(|()| packed.finish()) {
        Ok(packed) => packed,
        Err(_) => plain,
    }
}

/// Decodes a file, packed with gzip or not, of at most `max_bytes` once unpacked.
///
/// # Errors
/// Bytes that are no profile or unpack to more.
pub fn decode(bytes: &[u8], max_bytes: usize) -> Result<Profile, DecodeError> {
    if !bytes.starts_with(&GZIP_MAGIC) {
        return if bytes.len() > max_bytes {
            Err(DecodeError::TooLarge { max_bytes })
        } else {
            Ok(Profile::decode(bytes)?)
        };
    }
    let mut plain = Vec::new();
    let room = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(bytes).take(room).read_to_end(&mut plain)?;
    if plain.len() > max_bytes {
        return Err(DecodeError::TooLarge { max_bytes });
    }
    Ok(Profile::decode(plain.as_slice())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Sample;

    fn profile(values: &[i64]) -> Profile {
        Profile {
            string_table: vec![String::new()],
            sample: values.iter().map(|&v| Sample { value: vec![v], ..Sample::default() }).collect(),
            ..Profile::default()
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(values in proptest::collection::vec(any::<i64>(), 0..50)) {
            let p = profile(&values);
            prop_assert_eq!(decode(&encode(&p), 1 << 20).unwrap(), p.clone());
            prop_assert_eq!(decode(&p.encode_to_vec(), 1 << 20).unwrap(), p);
        }

        #[test]
        fn garbage_is_an_error_or_a_profile(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 1 << 16);
            let mut packed = GZIP_MAGIC.to_vec();
            packed.extend(bytes);
            let _ = decode(&packed, 1 << 16);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..64 {
            packed.write_all(&[0; 1 << 16]).unwrap();
        }
        let bomb = packed.finish().unwrap();
        assert!(bomb.len() < 1 << 14);
        assert!(matches!(decode(&bomb, 1 << 20), Err(DecodeError::TooLarge { .. })));
    }
}
