//! An allocator for processes that live for a millisecond.
//!
//! musl's malloc gives pages back to the kernel as soon as it can and asks for them again: an ADD spent 98 of its 230
//! system calls on that. Here small blocks are cut from large ones and are only taken back when they were the last cut;
//! the rest goes with the process. Large blocks are the system allocator's, so that memory that matters is given back.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks of this size and above are the system's.
const LARGE: usize = 128 * 1024;

/// What is asked of the system at a time. Untouched pages of it cost nothing.
const CHUNK: usize = 512 * 1024;

/// The allocator: `#[global_allocator] static ARENA: Arena = Arena::new();`
pub struct Arena {
    busy: AtomicBool,
    free: UnsafeCell<Free>,
}

/// What is left of the current chunk.
struct Free {
    start: usize,
    end: usize,
}

// SAFETY: `free` is only touched by `with`, under the lock `busy`.
unsafe impl Sync for Arena {}

impl Arena {
    /// Nothing asked for yet.
    pub const fn new() -> Self {
        Self { busy: AtomicBool::new(false), free: UnsafeCell::new(Free { start: 0, end: 0 }) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Free) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock makes this the only reference.
        let outcome = work(unsafe { &mut *self.free.get() });
        self.busy.store(false, Ordering::Release);
        outcome
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}

impl Free {
    fn take(&mut self, layout: Layout) -> *mut u8 {
        let cut = |free: &Self| {
            let start = free.start.checked_next_multiple_of(layout.align())?;
            let end = start.checked_add(layout.size())?;
            (end <= free.end).then_some((start, end))
        };
        let Some((start, end)) = cut(self).or_else(|| {
            self.refill()?;
            cut(self)
        }) else {
            return ptr::null_mut();
        };
        self.start = end;
        ptr::with_exposed_provenance_mut(start)
    }

    fn refill(&mut self) -> Option<()> {
        let layout = Layout::from_size_align(CHUNK, 4096).ok()?;
        // SAFETY: the layout is not of size zero.
        let chunk = unsafe { System.alloc(layout) };
        if chunk.is_null() {
            return None;
        }
        self.start = chunk.expose_provenance();
        self.end = self.start + CHUNK;
        Some(())
    }

    /// The block was the last one cut: it can grow, shrink or go.
    fn resize_last(&mut self, block: usize, old: usize, new: usize) -> bool {
        let last = block + old == self.start && block + new <= self.end;
        if last {
            self.start = block + new;
        }
        last
    }
}

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE || layout.align() > 4096
}

// SAFETY: blocks are disjoint: each is cut from the free rest under the lock, and only the last one cut can be resized
// or returned. Blocks cross from here to the system's allocator by size alone, on the way in and out alike.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        }
        self.with(|free| free.take(layout))
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: a block of this size came from there.
            return unsafe { System.dealloc(block, layout) };
        }
        self.with(|free| free.resize_last(block.addr(), layout.size(), 0));
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` is not zero and fits with the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if is_large(layout) && is_large(wanted) {
            // SAFETY: a block of this size came from there.
            return unsafe { System.realloc(block, layout, size) };
        }
        let in_place = !is_large(layout)
            && !is_large(wanted)
            && self.with(|free| free.resize_last(block.addr(), layout.size(), size));
        if in_place {
            return block;
        }
        // SAFETY: two live blocks, both at least as long as what is copied.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A block with what was written to it.
    struct Block {
        at: *mut u8,
        layout: Layout,
        fill: u8,
    }

    fn check(block: &Block) {
        assert_eq!(block.at.addr() % block.layout.align(), 0);
        for i in 0..block.layout.size() {
            // SAFETY: inside the block.
            assert_eq!(unsafe { *block.at.add(i) }, block.fill, "a block was overwritten");
        }
    }

    proptest! {
        #[test]
        fn live_blocks_keep_their_bytes(ops in prop::collection::vec((0..4u8, 1..9000usize, 0..8u32, any::<prop::sample::Index>()), 1..60)) {
            let arena = Arena::new();
            let mut blocks: Vec<Block> = Vec::new();
            for (n, (op, size, shift, which)) in ops.into_iter().enumerate() {
                let fill = n as u8;
                // now and then one that is the system's
                let size = if size > 8900 { size * 20 } else { size };
                match op {
                    0 | 1 => {
                        let layout = Layout::from_size_align(size, 1 << shift).unwrap();
                        // SAFETY: not of size zero; freed below.
                        let at = unsafe { arena.alloc(layout) };
                        // SAFETY: as long as the block.
                        unsafe { at.write_bytes(fill, size) };
                        blocks.push(Block { at, layout, fill });
                    }
                    2 if !blocks.is_empty() => {
                        let block = which.get(&blocks);
                        let kept = block.layout.size().min(size);
                        let old = block.fill;
                        let index = which.index(blocks.len());
                        // SAFETY: a live block of this arena.
                        let at = unsafe { arena.realloc(blocks[index].at, blocks[index].layout, size) };
                        for i in 0..kept {
                            // SAFETY: inside the block.
                            prop_assert_eq!(unsafe { *at.add(i) }, old);
                        }
                        // SAFETY: as long as the block.
                        unsafe { at.write_bytes(fill, size) };
                        let layout = Layout::from_size_align(size, blocks[index].layout.align()).unwrap();
                        blocks[index] = Block { at, layout, fill };
                    }
                    3 if !blocks.is_empty() => {
                        let block = blocks.swap_remove(which.index(blocks.len()));
                        check(&block);
                        // SAFETY: a live block of this arena.
                        unsafe { arena.dealloc(block.at, block.layout) };
                    }
                    _ => {}
                }
                blocks.iter().for_each(check);
            }
        }
    }

    #[test]
    fn the_last_block_grows_in_place_and_is_taken_back() {
        let arena = Arena::new();
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: each block is used as its layout says.
        unsafe {
            let first = arena.alloc(layout);
            assert_eq!(arena.realloc(first, layout, 5000), first);
            arena.dealloc(first, Layout::from_size_align(5000, 8).unwrap());
            assert_eq!(arena.alloc(layout), first);
        }
    }
}
