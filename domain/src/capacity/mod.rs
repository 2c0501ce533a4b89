//! The capacity model: what one set of hosts can hold, and which limit binds first.

pub mod facts;
