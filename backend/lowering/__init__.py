"""What rules read graphs with and write into: values, views, proofs about integers, the Program in the making."""
