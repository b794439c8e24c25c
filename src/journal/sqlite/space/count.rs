//! What a record takes of the pages of the file.

/// What so many bytes in one row take of the file's pages: as many rows as fit into a page share it, and what does not fit goes on
/// in pages of its own (sqlite.org/fileformat2.html, section 1.6).
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
    // Its length, its number and where it is; where it goes on as well.
    let rows = (page - 8) / (here + if elsewhere == 0 { 9 } else { 16 });
    page / if rows == 0 { 1 } else { rows } + elsewhere.div_ceil(page - 4) * page
}
