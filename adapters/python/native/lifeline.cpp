#include "lifeline.hpp"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <thread>

namespace isthmus::python {

namespace {

constexpr std::chrono::milliseconds grace{300};

/// The lifeline's thread; no lock, no Python.
void watch(int fd, const std::string& socket) {
    for (;;) {
        pollfd line{fd, POLLRDHUP, 0};
        const int ready = ::poll(&line, 1, -1);
        if (ready < 0 && errno == EINTR) continue;
        if (ready < 0 || (line.revents & POLLNVAL) != 0) return;
        if ((line.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) break;
    }
    ::kill(::getpid(), SIGTERM);
    std::this_thread::sleep_for(grace);
    ::unlink(socket.c_str());
    ::unlink((socket.substr(0, socket.rfind('.')) + ".lock").c_str());
    ::_exit(0);
}

}  // namespace

PyObject* watch_parent(PyObject*, PyObject* arguments) {
    int fd;
    const char* socket;
    if (!PyArg_ParseTuple(arguments, "is", &fd, &socket)) return nullptr;
    try {
        std::thread(watch, fd, std::string(socket)).detach();
    } catch (const std::system_error& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
    Py_RETURN_NONE;
}

}  // namespace isthmus::python
