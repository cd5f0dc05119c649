/* Two V4L2 devices in user space, for a process that this library is preloaded into (LD_PRELOAD):
 *
 *   /dev/video0  a camera: 160x120 YUYV at 30 Hz; luma is 16 + (x + 2 n) % 200 in frame n, Cb 100, Cr 160
 *   /dev/video9  a loopback output: what is written is appended to the file "written"
 *
 * The folder V4L2SHIM_DIR says how they behave: while it holds a file "unplugged", the camera can't be opened and gives
 * no more frames; while it holds "busy", another program uses it. The output's format is written to the file "format".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 160, HEIGHT = 120, RATE = 30, LINE = WIDTH * 2, SIZE = LINE * HEIGHT, APART = (SIZE + 4095) & ~4095, BUFFERS = 4, MAX_FD = 1024 };
enum kind { NONE, CAMERA, OUTPUT };

struct device {
    enum kind kind;
    int streaming;
    unsigned frame;
    struct timespec next;
    unsigned queue[64], head, tail;
    int written;
};

static struct device devices[MAX_FD];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *in_folder(char *path, const char *name) {
    const char *folder = getenv("V4L2SHIM_DIR");
    snprintf(path, PATH_MAX, "%s/%s", folder ? folder : "", name);
    return path;
}

static int is_set(const char *name) {
    char path[PATH_MAX];
    return access(in_folder(path, name), F_OK) == 0;
}

static enum kind kind_of(const char *path) {
    if (strcmp(path, "/dev/video0") == 0) return CAMERA;
    return strcmp(path, "/dev/video9") == 0 ? OUTPUT : NONE;
}

static int fail(int error) {
    errno = error;
    return -1;
}

/* The descriptor is a file in memory, so that mapping a camera's buffers is real. */
static int open_device(enum kind kind) {
    char path[PATH_MAX];
    if (kind == CAMERA && is_set("unplugged")) return fail(ENOENT);
    int fd = memfd_create("v4l2shim", MFD_CLOEXEC);
    if (fd < 0 || fd >= MAX_FD) return fail(EMFILE);
    memset(&devices[fd], 0, sizeof devices[fd]);
    devices[fd].kind = kind;
    if (kind == CAMERA && ftruncate(fd, (off_t)APART * BUFFERS) != 0) return -1;
    if (kind == OUTPUT) {
        devices[fd].written = REAL(open)(in_folder(path, "written"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    return fd;
}

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        enum kind kind = kind_of(path);                                \
        if (kind != NONE) return open_device(kind);                    \
        va_list rest;                                                  \
        va_start(rest, flags);                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                  \
        return REAL(name)(path, flags, mode);                          \
    }
OPEN(open)
OPEN(open64)

/* What the fortified headers make of open. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }

static struct device *device_of(int fd) {
    return fd >= 0 && fd < MAX_FD && devices[fd].kind != NONE ? &devices[fd] : NULL;
}

int close(int fd) {
    struct device *device = device_of(fd);
    if (device != NULL) {
        if (device->kind == OUTPUT) REAL(close)(device->written);
        device->kind = NONE;
    }
    return REAL(close)(fd);
}

ssize_t write(int fd, const void *content, size_t size) {
    struct device *device = device_of(fd);
    return REAL(write)(device != NULL && device->kind == OUTPUT ? device->written : fd, content, size);
}

static int query_capabilities(struct device *device, struct v4l2_capability *found) {
    int camera = device->kind == CAMERA;
    memset(found, 0, sizeof *found);
    strcpy((char *)found->driver, camera ? "uvcvideo" : "v4l2 loopback");
    strcpy((char *)found->card, camera ? "Shim camera" : "Shim loopback");
    strcpy((char *)found->bus_info, "platform:shim");
    found->device_caps = camera ? V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING : V4L2_CAP_VIDEO_OUTPUT | V4L2_CAP_READWRITE;
    found->capabilities = found->device_caps | V4L2_CAP_DEVICE_CAPS;
    return 0;
}

static int camera_format(struct v4l2_format *format) {
    if (format->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    struct v4l2_pix_format *pixels = &format->fmt.pix;
    memset(pixels, 0, sizeof *pixels);
    pixels->width = WIDTH;
    pixels->height = HEIGHT;
    pixels->pixelformat = V4L2_PIX_FMT_YUYV;
    pixels->field = V4L2_FIELD_NONE;
    pixels->bytesperline = LINE;
    pixels->sizeimage = SIZE;
    return 0;
}

static int output_format(struct v4l2_format *format, int sets) {
    char path[PATH_MAX];
    struct v4l2_pix_format *pixels = &format->fmt.pix;
    FILE *file = sets ? fopen(in_folder(path, "format"), "w") : NULL;
    if (file != NULL) {
        fprintf(file, "%ux%u %.4s", pixels->width, pixels->height, (const char *)&pixels->pixelformat);
        fclose(file);
    }
    return 0;
}

static void describe(struct v4l2_buffer *buffer, unsigned flags) {
    buffer->length = SIZE;
    buffer->m.offset = buffer->index * APART; /* mappings begin on pages */
    buffer->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | flags;
}

static void draw(unsigned char *pixels, unsigned frame) {
    for (unsigned at = 0; at < SIZE; at += 4) {
        unsigned x = at % LINE / 2;
        pixels[at] = (unsigned char)(16 + (x + 2 * frame) % 200);
        pixels[at + 1] = 100;
        pixels[at + 2] = (unsigned char)(16 + (x + 1 + 2 * frame) % 200);
        pixels[at + 3] = 160;
    }
}

/* Waits for the next frame's time and fills the oldest queued buffer. */
static int dequeue(int fd, struct device *device, struct v4l2_buffer *buffer) {
    static __thread unsigned char pixels[SIZE];
    if (is_set("unplugged")) return fail(ENODEV);
    if (!device->streaming) return fail(EINVAL);
    if (device->head == device->tail) return fail(EAGAIN);
    device->next.tv_nsec += 1000000000 / RATE;
    device->next.tv_sec += device->next.tv_nsec / 1000000000;
    device->next.tv_nsec %= 1000000000;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &device->next, NULL);
    buffer->index = device->queue[device->head++ % 64];
    draw(pixels, device->frame);
    if (pwrite(fd, pixels, SIZE, (off_t)buffer->index * APART) != SIZE) return -1;
    describe(buffer, V4L2_BUF_FLAG_DONE);
    buffer->bytesused = SIZE;
    buffer->field = V4L2_FIELD_NONE;
    buffer->sequence = device->frame++;
    buffer->timestamp.tv_sec = device->next.tv_sec;
    buffer->timestamp.tv_usec = device->next.tv_nsec / 1000;
    return 0;
}

static int rate(struct v4l2_streamparm *parameters) {
    memset(&parameters->parm, 0, sizeof parameters->parm);
    parameters->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    parameters->parm.capture.timeperframe = (struct v4l2_fract){1, RATE};
    return 0;
}

static int camera(int fd, struct device *device, unsigned request, void *argument) {
    switch (request) {
    case VIDIOC_ENUMINPUT: {
        struct v4l2_input *input = argument;
        if (input->index != 0) return fail(EINVAL);
        memset(input, 0, sizeof *input);
        strcpy((char *)input->name, "Camera 1");
        input->type = V4L2_INPUT_TYPE_CAMERA;
        return 0;
    }
    case VIDIOC_G_INPUT: *(int *)argument = 0; return 0;
    case VIDIOC_S_INPUT: return *(int *)argument == 0 ? 0 : fail(EINVAL);
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *format = argument;
        if (format->index != 0) return fail(EINVAL);
        strcpy((char *)format->description, "YUYV 4:2:2");
        format->pixelformat = V4L2_PIX_FMT_YUYV;
        return 0;
    }
    case VIDIOC_S_FMT: if (is_set("busy")) return fail(EBUSY); /* fall through */
    case VIDIOC_G_FMT:
    case VIDIOC_TRY_FMT: return camera_format(argument);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: return rate(argument);
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = argument;
        if (wanted->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
        if (wanted->count > BUFFERS) wanted->count = BUFFERS;
        return 0;
    }
    case VIDIOC_QUERYBUF: describe(argument, 0); return 0;
    case VIDIOC_QBUF: device->queue[device->tail++ % 64] = ((struct v4l2_buffer *)argument)->index; return 0;
    case VIDIOC_STREAMON:
        device->streaming = 1;
        clock_gettime(CLOCK_MONOTONIC, &device->next);
        return 0;
    case VIDIOC_STREAMOFF: device->streaming = 0; device->head = device->tail; return 0;
    case VIDIOC_DQBUF: return dequeue(fd, device, argument);
    default: return fail(ENOTTY);
    }
}

static int output(unsigned request, void *argument) {
    switch (request) {
    case VIDIOC_G_FMT: return output_format(argument, 0);
    case VIDIOC_S_FMT: return output_format(argument, 1);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: return 0;
    default: return fail(ENOTTY);
    }
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    struct device *device = device_of(fd);
    if (device == NULL) return REAL(ioctl)(fd, request, argument);
    if ((unsigned)request == VIDIOC_QUERYCAP) return query_capabilities(device, argument);
    return device->kind == CAMERA ? camera(fd, device, (unsigned)request, argument) : output((unsigned)request, argument);
}
