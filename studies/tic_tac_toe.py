"""Tic-tac-toe written as text: a letter for each square, `a` to `i`, and how the game ended."""

from random import Random

SQUARES = "abcdefghi"
ENDS = {0: "=", 1: "X", 2: "O"}
"""nobody, the first player or the second has won"""
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def winner(board: list[int]) -> int:
    """1 or 2, whoever has a line of the board's nine squares (0 free), 0 for nobody."""
    return next((board[a] for a, b, c in LINES if board[a] and board[a] == board[b] == board[c]), 0)


def game(draw: Random) -> str:
    """A game of random legal moves up to a line or a full board."""
    board, moves = [0] * 9, ""
    for turn in range(9):
        square = draw.choice([place for place in range(9) if not board[place]])
        board[square] = 1 + turn % 2
        moves += SQUARES[square]
        if winner(board):
            break
    return moves + ENDS[winner(board)]


def boards(moves: str) -> list[list[int]]:
    """The board after each move: 0 free, 1 the first player's, 2 the second's; the end of the game is none.
    Raises ValueError for moves that are not legal.
    """
    board, found = [0] * 9, []
    for turn, letter in enumerate(moves):
        if letter in ENDS.values():
            break
        square = SQUARES.index(letter)
        if board[square] or winner(board):
            raise ValueError(f"{letter!r} is no legal move after {moves[:turn]!r}")
        board[square] = 1 + turn % 2
        found.append(list(board))
    return found


def seen_by_the_next(board: list[int], turn: int) -> list[bool]:
    """Of the player who moves after `turn` moves: [18] whether each square is theirs, then whether it is the
    other's.
    """
    own = 1 + turn % 2
    return [square == own for square in board] + [square == 3 - own for square in board]
