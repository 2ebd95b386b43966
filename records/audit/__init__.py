"""The audit of a data set: copies within and across splits, doubtful labels, odd images, and what follows from them."""
