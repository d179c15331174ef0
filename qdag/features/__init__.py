"""What a feature set is, the arithmetic of indicators, and slow second opinions."""
