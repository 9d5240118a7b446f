//! Buffers that the kernel reads while an operation is pending.

use std::rc::Rc;

use monoio::buf::{IoBuf, IoVecBuf};

use crate::http::output::{Buffer, Held};

// SAFETY: a `Buffer`'s bytes are a heap allocation that is neither moved, changed nor freed while the value lives: the
// type gives out `&[u8]` only, and is dropped only after its last owner, the operation's clone of the `Rc` included.
unsafe impl IoBuf for Buffer {
    fn read_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes().len()
    }
}

/// Pieces of one snapshot, gathered for one vectored write, together with what keeps them alive.
///
/// The type a vectored write needs: it carries the vectors *and* their owner, so a task that is dropped with the write
/// in flight leaves the kernel nothing to read that could be freed.
pub struct Gathered {
    vectors: Vec<libc::iovec>,
    /// Keeps every page alive that a vector points into.
    _held: Rc<Held>,
}

impl Gathered {
    /// Gathers pieces of the snapshot that `held` holds, as `pieces` gives them out.
    pub fn new(held: &Rc<Held>, pieces: impl for<'a> FnOnce(&'a Held, &mut dyn FnMut(&'a [u8]))) -> Gathered {
        let mut vectors = Vec::with_capacity(64);
        pieces(held, &mut |piece| {
            vectors.push(libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() });
        });
        Gathered { vectors, _held: Rc::clone(held) }
    }
}

// SAFETY: the vectors are a heap allocation that does not change after `new`, and each points into bytes borrowed from
// `*held` (the closure's lifetime says so), which is immutable and kept alive by `_held`.
unsafe impl IoVecBuf for Gathered {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.vectors.as_ptr()
    }

    fn read_iovec_len(&self) -> usize {
        debug_assert!(self.vectors.len() <= 1024, "IOV_MAX");
        self.vectors.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::output::Pool;

    #[test]
    fn the_ring_sees_the_bytes_of_a_buffer() {
        let pool = Pool::new();
        let mut bytes = pool.take(16);
        bytes.extend_from_slice(b"some bytes");
        let buffer = pool.seal(bytes);
        assert_eq!(buffer.read_ptr(), buffer.bytes().as_ptr());
        assert_eq!(buffer.bytes_init(), 10);
        let address = buffer.read_ptr();
        let slice = Rc::clone(&buffer).slice(5..10);
        drop(buffer);
        // The slice alone keeps the allocation: what a pending operation relies on.
        assert_eq!(slice.read_ptr(), address.wrapping_add(5));
        assert_eq!(&slice.get_ref().bytes()[5..10], b"bytes");
    }
}
