//! What goes through the wire comes out as it went in; what has no meaning is refused in words.

mod bytes;
mod descriptors;
mod given;
mod refusals;
mod round_trips;
