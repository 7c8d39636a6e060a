//! An allocator for processes that live for a millisecond.
//!
//! musl's malloc returns pages to the kernel as soon as it can and requests them again: an ADD spent 98 of its 230
//! system calls on that. Here small blocks are cut from large chunks, and freed blocks are reused for their size. So
//! few pages are ever touched, and each first touch is a page fault of about 3 µs. Large blocks come from the system
//! allocator, so that large amounts of memory are returned.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks of this size and above come from the system allocator.
const LARGE: usize = 128 * 1024;

/// Bytes that are requested from the system at a time. Untouched pages cost nothing.
const CHUNK: usize = 512 * 1024;

/// Bytes of the first chunk, which is part of the static arena and needs no call. A plugin needs no other chunk.
const FIRST: usize = 384 * 1024;

/// The alignment and least size of a block in bytes. A block must have room for a link of the free list.
const GRAIN: usize = 16;

/// Sizes up to this are multiples of [`GRAIN`]. Above it there are four sizes for each doubling.
const FINE: usize = 512;

/// The number of sizes below [`LARGE`].
const SIZES: usize = FINE / GRAIN + 4 * (LARGE / FINE).ilog2() as usize;

/// The allocator: `#[global_allocator] static ARENA: Arena = Arena::new();` It must not move after its first use,
/// because blocks are parts of it.
#[repr(C)]
pub struct Arena {
    busy: AtomicBool,
    free: UnsafeCell<Free>,
    /// Last, so that the first blocks share a page with the other fields.
    first: UnsafeCell<First>,
}

#[repr(align(16))]
#[expect(dead_code, reason = "blocks are cut from this memory by address")]
struct First([u8; FIRST]);

/// The rest of the current chunk, and lists of freed blocks by size. Each freed block contains the address of the next
/// one (0: none).
struct Free {
    start: usize,
    end: usize,
    /// Whether the first chunk is in use.
    begun: bool,
    lists: [usize; SIZES],
}

/// A size of blocks, and its index.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Size {
    index: usize,
    bytes: usize,
}

impl Size {
    /// The smallest size that holds `bytes`.
    const fn of(bytes: usize) -> Self {
        if bytes <= FINE {
            let index = bytes.saturating_sub(1) / GRAIN;
            return Self { index, bytes: (index + 1) * GRAIN };
        }
        // 2^doubling < bytes ≤ 2^(doubling + 1)
        let doubling = (bytes - 1).ilog2();
        let step = 1 << (doubling - 2);
        let steps = (bytes - (1 << doubling)).div_ceil(step);
        let index = FINE / GRAIN + 4 * (doubling - FINE.ilog2()) as usize + steps - 1;
        Self { index, bytes: (1 << doubling) + steps * step }
    }
}

// SAFETY: `free` is only touched by `with`, under the lock `busy`, and `first` by the owners of blocks cut from it.
unsafe impl Sync for Arena {}

impl Arena {
    /// An empty arena.
    pub const fn new() -> Self {
        let free = Free { start: 0, end: 0, begun: false, lists: [0; SIZES] };
        let first = UnsafeCell::new(First([0; FIRST]));
        Self { busy: AtomicBool::new(false), free: UnsafeCell::new(free), first }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Free) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock makes this the only reference.
        let free = unsafe { &mut *self.free.get() };
        if !std::mem::replace(&mut free.begun, true) {
            free.start = self.first.get().expose_provenance();
            free.end = free.start + FIRST;
        }
        let outcome = work(free);
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
        let size = Size::of(layout.size());
        let first = self.lists[size.index];
        if first != 0 && first.is_multiple_of(layout.align()) {
            let block: *mut u8 = ptr::with_exposed_provenance_mut(first);
            // SAFETY: a freed block of at least GRAIN bytes, aligned to GRAIN, whose first bytes are its link.
            self.lists[size.index] = unsafe { block.cast::<usize>().read() };
            return block;
        }
        self.cut(size.bytes, layout.align().max(GRAIN))
    }

    fn cut(&mut self, bytes: usize, align: usize) -> *mut u8 {
        let fit = |free: &Self| {
            let start = free.start.checked_next_multiple_of(align)?;
            let end = start.checked_add(bytes)?;
            (end <= free.end).then_some((start, end))
        };
        let Some((start, end)) = fit(self).or_else(|| {
            self.refill()?;
            fit(self)
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

    fn give_back(&mut self, block: *mut u8, size: Size) {
        let address = block.expose_provenance();
        if address + size.bytes == self.start {
            self.start = address;
            return;
        }
        // SAFETY: nobody uses the block any more, and it has room for the link.
        unsafe { block.cast::<usize>().write(self.lists[size.index]) };
        self.lists[size.index] = address;
    }

    /// Resizes the block if it was the last one cut. Returns whether it could.
    fn resize_last(&mut self, block: usize, old: Size, new: Size) -> bool {
        let last = block + old.bytes == self.start && block + new.bytes <= self.end;
        if last {
            self.start = block + new.bytes;
        }
        last
    }
}

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE || layout.align() > 4096
}

// SAFETY: blocks are disjoint: each is cut from the free rest under the lock or taken from a list that it was put on
// when it was freed. A block's size follows from its layout's alone, so that all who see the layout agree on it, and on
// whether the block is the system's.
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
        self.with(|free| free.give_back(block, Size::of(layout.size())));
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` is not zero and fits with the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if is_large(layout) && is_large(wanted) {
            // SAFETY: a block of this size came from there.
            return unsafe { System.realloc(block, layout, size) };
        }
        if !is_large(layout) && !is_large(wanted) {
            let (old, new) = (Size::of(layout.size()), Size::of(size));
            if old == new || self.with(|free| free.resize_last(block.addr(), old, new)) {
                return block;
            }
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

    /// A block and the byte that fills it.
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
                // sometimes one from the system allocator
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
    fn sizes_hold_what_they_are_for_and_follow_one_another() {
        let mut last = Size { index: 0, bytes: GRAIN };
        for bytes in 1..LARGE {
            let size = Size::of(bytes);
            assert!(size.bytes >= bytes && size.index < SIZES, "{bytes}: {}", size.bytes);
            assert!(size == last || (size.index == last.index + 1 && last.bytes == bytes - 1), "{bytes}");
            last = size;
        }
        assert_eq!(last.index, SIZES - 1);
    }

    #[test]
    fn a_freed_block_serves_the_next_of_its_size() {
        let arena = Arena::new();
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        // SAFETY: each block is used as its layout says.
        unsafe {
            let first = arena.alloc(layout(100));
            let second = arena.alloc(layout(100));
            arena.dealloc(first, layout(100));
            assert_eq!(arena.alloc(layout(112)), first);
            assert_ne!(arena.alloc(layout(100)), second);
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
