//! The write side as a whole: the loop over the real store and channels, the store's suite, and data files of all sorts.

mod apply;
mod files;
mod fill;
mod kept_log;
mod store;
mod support;
