//! Archives: those that GNU's tar makes, and those that nobody should have made.

mod gnu;
mod hostile;
mod made;
