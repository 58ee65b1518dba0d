//! Large arrays of lines, in huge pages where the system gives them.
//!
//! A product with one token reads all weights once. In pages of 4 KiB the stream ends every 64 lines, for the hardware that reads ahead and for the table of
//! addresses alike, and a core reads half as fast to two thirds as fast as in pages of 2 MiB.

use alloc::{vec, vec::Vec};
use core::{
    fmt,
    ops::{Deref, DerefMut},
};

use super::line::Line;

/// Lines that live as long as this value.
pub(crate) enum Lines {
    /// Of the allocator.
    Owned(Vec<Line>),
    /// In pages of our own.
    #[cfg(feature = "std")]
    Mapped(Mapping),
}

impl Lines {
    /// That many lines of zeros.
    pub(crate) fn zeros(n: usize) -> Self {
        #[cfg(feature = "std")]
        if let Some(mapping) = Mapping::zeros(n) {
            return Self::Mapped(mapping);
        }
        Self::in_small_pages(n)
    }

    /// That many lines of zeros, as the allocator gives them.
    pub(crate) fn in_small_pages(n: usize) -> Self {
        Self::Owned(vec![Line::ZERO; n])
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            Self::Owned(lines) => lines,
            #[cfg(feature = "std")]
            Self::Mapped(mapping) => mapping.lines(),
        }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        match self {
            Self::Owned(lines) => lines,
            #[cfg(feature = "std")]
            Self::Mapped(mapping) => mapping.lines_mut(),
        }
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut lines = Self::zeros(self.len());
        lines.copy_from_slice(self);
        lines
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines", self.len())
    }
}

#[cfg(feature = "std")]
pub(crate) use mapping::Mapping;

#[cfg(feature = "std")]
mod mapping {
    use memmap2::MmapMut;

    use super::Line;

    /// Bytes of a huge page on x86-64 and, with pages of 4 KiB, on Arm.
    const HUGE_PAGE: usize = 2 << 20;

    /// Lines in an anonymous mapping, from the beginning of a huge page on.
    pub(crate) struct Mapping {
        map: MmapMut,
        /// First byte.
        start: usize,
        /// Bytes of the lines.
        bytes: usize,
    }

    impl Mapping {
        /// Zeros, if they fill a huge page and the system has so much memory.
        pub(super) fn zeros(n_lines: usize) -> Option<Self> {
            let bytes = n_lines.checked_mul(Line::BYTES).filter(|&bytes| bytes >= HUGE_PAGE)?;
            // What is not touched takes no memory.
            let map = MmapMut::map_anon(bytes.checked_add(HUGE_PAGE)?).ok()?;
            let start = map.as_ptr().align_offset(HUGE_PAGE);
            // The last lines stay in small pages, so that no more memory is taken than there are lines. A system that has no huge pages to give goes on without.
            #[cfg(target_os = "linux")]
            let _ =
                map.advise_range(memmap2::Advice::HugePage, start, bytes / HUGE_PAGE * HUGE_PAGE);
            Some(Self { map, start, bytes })
        }

        pub(super) fn lines(&self) -> &[Line] {
            let bytes = &self.map[self.start..][..self.bytes];
            // SAFETY: any 64 bytes are a line.
            let (before, lines, _) = unsafe { bytes.align_to() };
            debug_assert!(before.is_empty(), "huge pages begin with a line");
            lines
        }

        pub(super) fn lines_mut(&mut self) -> &mut [Line] {
            let bytes = &mut self.map[self.start..][..self.bytes];
            // SAFETY: any 64 bytes are a line, and a line has no bits that bytes must not have.
            let (before, lines, _) = unsafe { bytes.align_to_mut() };
            debug_assert!(before.is_empty(), "huge pages begin with a line");
            lines
        }
    }
}
