"""What every batched solver needs: shapes that line up, rows that leave when they are done, products, and columns."""
