//! Named limits on everything that a file can claim. A claim is checked against its limit, and against the bytes that
//! are there, before anything is allocated for it.

/// Layers of one image (docker and containerd stop at 127; 128 lower directories must mount).
pub const MAX_LAYERS: usize = 1024;
/// Entries of one image, all layers together.
pub const MAX_ENTRIES: usize = if cfg!(fuzzing) { 1 << 16 } else { 4 << 20 };
/// Bytes of names, targets, pax values and kept headers of one image, all entries together, once they stand in memory:
/// prefixes shared and values repeated in the file count each time.
pub const MAX_INDEX_BYTES: usize = if cfg!(fuzzing) { 64 << 20 } else { 2 << 30 };
/// Bytes of a name or a link target. Linux stops at 4096 for a path; tars may carry more.
pub const MAX_NAME_BYTES: usize = 64 << 10;
/// Bytes of one pax record's value (Linux xattrs stop at 64 KiB; text form and other records need more room).
pub const MAX_PAX_VALUE_BYTES: usize = 1 << 20;
/// Pax records of one entry.
pub const MAX_PAX_RECORDS: usize = 4096;
/// Bytes of one entry's headers when kept raw.
pub const MAX_RAW_HEADER_BYTES: usize = 16 << 20;
/// Data extents of one sparse member.
pub const MAX_SPARSE_EXTENTS: usize = 1 << 20;
/// Distinct header shapes of one file.
pub const MAX_SHAPES: usize = 1 << 20;
/// Bytes of one shape's style.
pub const MAX_STYLE_BYTES: usize = 1 << 20;
/// Zero bytes after a tar's last member: few bytes of a file say how many, and all of them are written or hashed.
pub const MAX_TAIL_ZERO_BYTES: u64 = 1 << 30;
/// Bytes kept after a tar's end marker, or in place of it.
pub const MAX_TAIL_BYTES: usize = 16 << 20;
/// Bytes of one section other than the data section, uncompressed.
pub const MAX_SECTION_BYTES: u64 = if cfg!(fuzzing) { 16 << 20 } else { 1 << 30 };
/// Bytes of a manifest or config.
pub const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Bytes of both as they are stored, and of the section META.
pub const MAX_OPENED_BYTES: u64 = 17 << 20;
/// Patch stages of one recipe.
pub const MAX_STAGES: usize = 16;
/// Contents that one file can make.
pub const MAX_CONTENTS: usize = MAX_ENTRIES;
/// Frames of one file.
pub const MAX_FRAMES: usize = MAX_ENTRIES;
/// Bytes of the name that a file suggests for its image.
pub const MAX_IMAGE_NAME_BYTES: usize = 4096;
