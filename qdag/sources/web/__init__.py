"""Sources on the network: what every vendor's client shares, and a client per vendor."""
