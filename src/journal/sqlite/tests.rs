//! What only the file on disk can show.
