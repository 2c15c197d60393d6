//! What benchmarks share: order statistics and the one table they print. A benchmark prints figures and judges nothing;
//! tests are never timed.

/// Whether cargo asks for the figures. `cargo test --benches` runs these programs too, and shall not wait for them.
pub fn wanted(name: &str) -> bool {
    let asked = std::env::args().any(|argument| argument == "--bench");
    if !asked {
        println!("{name}: figures are taken by `cargo bench -p registry-conformance --bench {name}`");
    }
    asked
}

/// The value after `--NAME` of the command line.
pub fn option(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument.trim_start_matches("--") != name);
    arguments.next()?;
    arguments.next()
}

/// Values in order.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that `share` (0 to 1) of all values do not exceed; 0 of nothing.
    pub fn at(&self, share: f64) -> f64 {
        let place = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(place.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default()
    }
}

/// Prints rows below their headings; the first column is text, the others are figures.
pub fn print(title: &str, headings: &[&str], rows: &[Vec<String>]) {
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
            cells.chain([headings[column].len()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            match column {
                0 => text.push_str(&format!("{cell:<width$}")),
                _ => text.push_str(&format!("  {cell:>width$}")),
            }
        }
        println!("{}", text.trim_end());
    };
    println!("\n{title}; load {}", load());
    line(&headings.iter().map(|&heading| heading.to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// How busy the machine is and how many cores it has: without that no figure means anything.
fn load() -> String {
    let average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = average.split(' ').next().unwrap_or("unknown").to_owned();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{minute} on {cores} cores")
}
