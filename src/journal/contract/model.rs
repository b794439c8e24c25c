//! Random calls against a plain model.
