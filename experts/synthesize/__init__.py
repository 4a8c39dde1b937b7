"""Questions that a model is likely to get, written by the model itself in the user's turn of its template."""
