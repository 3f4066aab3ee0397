"""The k largest of each row, for rows of thousands of columns: `Tensor.topk` copies a whole row on a CPU."""

import torch
from torch import Tensor

GROUP = 8
"""Columns in a group."""
UNGROUPED = 1024
"""Rows this short are sorted whole."""


def grouped_top_k(rows: Tensor, k: int, *, descending: bool = True) -> tuple[Tensor, Tensor]:
    """(values, columns) [n, k] of the k largest of each row [n, m], exactly; which of equal ones is not said.

    They lie in the k groups of largest maximum: were one outside, each of these groups would hold a value at
    least as large. The groups are found in the same way, until few are left. `descending` sorts the result.
    """
    n, m = rows.shape
    per = m // GROUP  # column c is in group c % per, so that maxima are taken along whole rows
    if rows.is_cuda or m <= UNGROUPED or per < k:
        values, columns = rows.topk(k, dim=-1, sorted=descending)
        return values, columns
    grouped = rows[:, : per * GROUP].unflatten(1, (GROUP, per))
    groups = grouped_top_k(grouped.amax(1), k, descending=False)[1]
    found = grouped.gather(2, groups[:, None].expand(n, GROUP, k)).flatten(1)
    columns = (groups[:, None] + torch.arange(0, per * GROUP, per)[:, None]).flatten(1)
    if left := m - per * GROUP:
        found = torch.cat([found, rows[:, -left:]], 1)
        columns = torch.cat([columns, torch.arange(m - left, m).expand(n, left)], 1)
    values, places = found.topk(k, dim=-1, sorted=descending)
    return values, columns.gather(1, places)
