//! The pages of the file that a record takes.

/// The bytes of pages that a row of `bytes` bytes takes. As many rows as fit share a page; the overflow of a row has pages of its own
/// (sqlite.org/fileformat2.html, section 1.6).
pub(in crate::journal::sqlite) const fn of_a_row(bytes: usize, page: u64) -> u64 {
    let (longest, least) = (page - 35, (page - 12) * 32 / 255 - 23);
    let bytes = bytes as u64 + 8;
    let kept = least + bytes.saturating_sub(least) % (page - 4);
    let (here, elsewhere) = if bytes <= longest {
        (bytes, 0)
    } else if kept <= longest {
        (kept, bytes - kept)
    } else {
        (least, bytes - least)
    };
    // The row's length, its number and its pointer, and the pointer to its overflow.
    let rows = (page - 8) / (here + if elsewhere == 0 { 9 } else { 16 });
    page / if rows == 0 { 1 } else { rows } + elsewhere.div_ceil(page - 4) * page
}
