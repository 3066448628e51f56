//! What tests have measured.

use std::sync::Mutex;

/// To be printed when all have ended: a line among the results would tear them apart.
pub static FIGURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes a line for [`FIGURES`], as `println!` prints one.
#[macro_export]
macro_rules! figure {
    ($($text:tt)*) => {
        $crate::figure::FIGURES.lock().unwrap().push(format!($($text)*))
    };
}
