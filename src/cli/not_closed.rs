//! Only Linux can close a process to others of its user.

pub(super) fn to_others() {}
