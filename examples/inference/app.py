"""A model that reads handwritten digits: a random forest, trained on the images that scikit-learn brings."""

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import isthmus

images, labels = load_digits(
    return_X_y=True
)  # 1797 images of 8 x 8 pixels from 0 to 16, written by 43 people
known, unknown, labels_of_known, labels_of_unknown = train_test_split(
    images, labels, test_size=0.5, random_state=0
)
model = RandomForestClassifier(100, random_state=0).fit(known, labels_of_known)


@isthmus.export(batch=isthmus.Batch(max=256, wait=0.002, stack=True))
def predict(images):
    """Called once for many calls, of any callers: an image of each of them, stacked."""
    return model.predict(images).tolist()


@isthmus.export
def predict_one(image):
    """The same without a batch: a forest takes about as long for one image as for a hundred."""
    return int(model.predict([image])[0])


@isthmus.export
def exam():
    """Images that the model has not seen, and what they show."""
    return unknown, labels_of_unknown
