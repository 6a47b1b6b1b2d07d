//! How many partitions the large tables have, where they have any.

/// A number of partitions, 2 to 256: powers of two, so that each can be halved later.
///
/// ```
/// use pgw_storage_postgres::Partitions;
/// assert_eq!(Partitions::new(16).map(Partitions::get), Some(16));
/// assert_eq!(Partitions::new(12), None);
/// assert_eq!(Partitions::new(512), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partitions(u16);

impl Partitions {
    /// Most there may be. What is about all merchants looks into each of them, so more would cost every claim more than they save.
    pub const MAX: u16 = 256;

    /// So many, if they are a power of two from 2 to [`MAX`](Self::MAX).
    #[must_use]
    pub const fn new(count: u16) -> Option<Self> {
        if count >= 2 && count <= Self::MAX && count.is_power_of_two() {
            Some(Self(count))
        } else {
            None
        }
    }

    /// How many.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// A text of SQL with these partitions put in: a line with `{n}` becomes a line for each.
    pub(crate) fn fill(self, template: &str) -> String {
        let mut sql = String::new();
        for line in template.lines() {
            let line = line.replace("{partitions}", &self.0.to_string());
            if !line.contains("{n}") || line.starts_with("--") {
                sql.push_str(&line);
                sql.push('\n');
                continue;
            }
            for n in 0..self.0 {
                sql.push_str(&line.replace("{n}", &n.to_string()));
                sql.push('\n');
            }
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_partition_is_there_once_for_each() {
        let four = Partitions::new(4).expect("a power of two");
        let sql =
            four.fill("-- {partitions}, {n} each\nbegin;\ntable t_{n} of {partitions};\ncommit;");
        let lines: Vec<&str> = sql.lines().collect();
        assert_eq!(lines[1], "begin;");
        assert_eq!(
            lines[2..6],
            ["table t_0 of 4;", "table t_1 of 4;", "table t_2 of 4;", "table t_3 of 4;"]
        );
        assert_eq!(lines[6..], ["commit;"]);
    }
}
