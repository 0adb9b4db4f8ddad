//! Masking (RFC 6455 section 5.3).

/// Unmasks `payload` in place, and rotates `key` to the next byte of the same frame.
pub(super) fn unmask(payload: &mut [u8], key: &mut [u8; 4]) {
    let word = u32::from_ne_bytes(*key);
    let wide = u64::from(word) << 32 | u64::from(word);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    key.rotate_left(rest.len() % 4);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 20 } else { 256 }))]

        #[test]
        fn pieces_are_unmasked_like_the_whole(
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            key in any::<[u8; 4]>(),
            cut in 0_usize..100,
        ) {
            let expected: Vec<u8> =
                payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            let mut payload = payload;
            let (first, second) = { let cut = cut.min(payload.len()); payload.split_at_mut(cut) };
            let mut key = key;
            unmask(first, &mut key);
            unmask(second, &mut key);
            prop_assert_eq!(payload, expected);
        }
    }
}
