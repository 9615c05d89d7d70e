"""Train the network of StyleBank and its filter banks."""
