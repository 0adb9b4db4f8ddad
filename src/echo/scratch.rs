//! One buffer per thread.
//!
//! A connection needs a buffer only while bytes pass through it, and a thread polls one connection
//! at a time; so the thread owns the buffer, and an idle connection owns none.

use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `size` bytes of this thread's buffer. What they hold is arbitrary.
///
/// The buffer is taken out of the cell meanwhile. A nested call therefore gets a buffer of its own
/// instead of a panic, and a `work` that panics costs the next caller an allocation and nothing
/// else.
pub(super) fn with<T>(size: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|place| {
        let mut buffer = place.take();
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let result = work(&mut buffer[..size]);
        place.set(buffer);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_buffer_serves_every_size() {
        let first = with(16, |buffer| (buffer.as_ptr(), buffer.len()));
        let smaller = with(7, |buffer| (buffer.as_ptr(), buffer.len()));
        assert_eq!(first.1, 16);
        assert_eq!(smaller, (first.0, 7));
        assert_eq!(with(100, |buffer| buffer.len()), 100);
    }

    #[test]
    fn a_nested_use_gets_a_buffer_of_its_own() {
        with(8, |outer| {
            outer.fill(1);
            with(8, |inner| inner.fill(2));
            assert_eq!(outer, [1; 8]);
        });
    }
}
