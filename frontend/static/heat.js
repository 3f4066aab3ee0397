// The classes that colour an activation by its share of the strongest, as server/markup.py gives them.

export const heat = (share) => ["heat", `h${Math.min(Math.max(Math.ceil(20 * Math.abs(share)), 1), 20)}`, ...(share < 0 ? ["below"] : [])];
