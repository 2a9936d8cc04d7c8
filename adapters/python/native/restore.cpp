// Taking the GIL on a thread that CPython may end meanwhile. Without this macro pthread_cleanup_push is C's, which jumps here before
// the frames of C++ are unwound.
#undef __EXCEPTIONS
#include <pthread.h>
#include <unistd.h>

#include "python.hpp"

namespace isthmus::python {

namespace {

void stay(void*) {
    for (;;) ::pause();
}

}  // namespace

void restore(PyThreadState* thread) {
    pthread_cleanup_push(stay, nullptr);
    PyEval_RestoreThread(thread);
    pthread_cleanup_pop(0);
}

}  // namespace isthmus::python
