//! The order of rounding and the columns of each group.

use fewbit_format::Granularity;

use crate::{Groups, Order};

/// Columns in order of rounding.
pub(crate) fn sorted(diagonal: &[f64], order: Order) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..diagonal.len()).collect();
    if order == Order::ActOrder {
        columns.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    }
    columns
}

/// Which columns share parameters, and where.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Columns of a group.
    pub(crate) group_size: usize,
    /// Groups of a row.
    pub(crate) n_groups: usize,
    /// Columns, group after group.
    pub(crate) members: Vec<usize>,
    /// Place of each column in `members`: `place / group_size` is its group, `place % group_size` its index in it.
    pub(crate) place: Vec<usize>,
    /// All rows share the parameters of one group.
    pub(crate) whole_tensor: bool,
    ordered: bool,
}

impl Layout {
    pub(crate) fn new(granularity: Granularity, order: &[usize], groups: Groups) -> Self {
        let n = order.len();
        let grouped = matches!(granularity, Granularity::Group(_));
        let members: Vec<usize> = match groups {
            Groups::Ordered if grouped => order.to_vec(),
            _ => (0..n).collect(),
        };
        let ordered = !members.is_sorted();
        let mut place = vec![0; n];
        for (p, &column) in members.iter().enumerate() {
            place[column] = p;
        }
        Self {
            group_size: granularity.group_size(n),
            n_groups: granularity.n_groups(n),
            members,
            place,
            whole_tensor: granularity == Granularity::Tensor,
            ordered,
        }
    }

    /// Columns of a group.
    pub(crate) fn group(&self, group: usize) -> &[usize] {
        let end = ((group + 1) * self.group_size).min(self.members.len());
        &self.members[group * self.group_size..end]
    }

    #[inline(always)]
    pub(crate) fn group_of(&self, column: usize) -> usize {
        self.place[column] / self.group_size
    }

    #[inline(always)]
    pub(crate) fn index_of(&self, column: usize) -> usize {
        self.place[column] % self.group_size
    }

    /// Group of each column, if it is not `column / group_size`.
    pub(crate) fn group_map(&self) -> Option<Vec<u32>> {
        self.ordered.then(|| self.place.iter().map(|p| (p / self.group_size) as u32).collect())
    }
}
