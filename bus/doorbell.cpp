#include "bus/doorbell.hpp"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "bus/status.hpp"

namespace isthmus::doorbell {

using namespace std::chrono_literals;

int open() {
    const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) throw Error(Status::no_memory, std::string("cannot make an eventfd: ") + std::strerror(errno));
    return fd;
}

void ring(int fd) noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(fd, &one, sizeof one);  // EAGAIN: it rings already
}

void silence(int fd) noexcept {
    std::uint64_t rings;
    [[maybe_unused]] const auto got = ::read(fd, &rings, sizeof rings);
}

bool sleep(int fd, Deadline deadline) noexcept {
    const auto left = std::max(deadline - Clock::now(), Clock::duration::zero());
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec time{static_cast<time_t>(seconds.count()), static_cast<long>((left - seconds).count())};
    pollfd door{fd, POLLIN, 0};
    return ::ppoll(&door, 1, &time, nullptr) > 0;
}

Spin::Spin() : least_(5us), most_(100us), budget_(40us) {
    cpu_set_t usable;
    if (::sched_getaffinity(0, sizeof usable, &usable) == 0 && CPU_COUNT(&usable) < 2) least_ = most_ = budget_ = 0us;
}

}  // namespace isthmus::doorbell
